"""A contract for import-linter: no module reaches itself by its imports.

`lint-imports` runs it beside the layers, by `contract_types` in pyproject.toml. The layers order the packages; this
holds inside them, too, between a package and its own modules as well, and for imports within functions and for types.
"""

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


class AcyclicModules(Contract):
    """Kept when no module imports itself, directly or through others."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        cycle = find_cycle(graph)
        return ContractCheck(kept=cycle is None, metadata={"cycle": cycle})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in pairwise(check.metadata["cycle"]):
            output.print_error(f"{importer} imports {imported}", bold=False)
        output.new_line()
        output.print("Move what both sides need into a module below them, or hand it in as an argument.")


def find_cycle(graph: ImportGraph) -> list[str] | None:
    """The modules of one cycle, each importing the next, the first one again at the end; None where there is none."""
    imports = {module: sorted(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # graphlib names each after the one that it imports
    return None
