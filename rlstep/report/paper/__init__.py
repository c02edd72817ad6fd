"""The experiments of "Let's Verify Step by Step" on labels (Lightman et al., 2305.20050), repeated on a small task."""
