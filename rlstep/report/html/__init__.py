"""The report as one HTML page, which loads nothing: figures, charts and a browser of solutions.

`page` writes it. Its parts are data (`headline`, `charts`, `training`, `sources`, `choice`, `solutions`), HTML that can
be read without a script (`body`), and the style sheet and scripts in the folder `page_files`, which draw the data.
"""
