"""The one exception that means "the input is wrong": the command line prints it as one line and exits with 2."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was given, why it fails and what to do; for data it names the file, the row and the field.
    """


class DataError(UserError):
    """A row of a data file is wrong.

    Args:
        path: the file.
        row: the row's number, counted from 1 as editors do.
        field: the field's name, or None when the whole row is unreadable.
        problem: what is wrong and what was expected.
    """

    def __init__(self, path, row: int, field: str | None, problem: str):
        where = f"{path}, row {row}" + (f", field '{field}'" if field else "")
        super().__init__(f"{where}: {problem}")
        self.path, self.row, self.field = path, row, field


class NothingToLearn(UserError):
    """Training data that teaches nothing: no labels, or labels that are all the same."""
