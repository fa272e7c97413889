"""The one error that is meant for the user."""


class UserError(Exception):
    """Something the user can mend: one clear line (or several), printed without a traceback; exit status 2."""
