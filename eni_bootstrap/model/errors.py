"""The errors, each with the exit code that ``cli`` returns for it."""


class BootstrapError(Exception):
    """Something could not be made so; the message says what, of which ENI, and what to do."""

    exit_code = 1


class UsageError(BootstrapError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class MetadataError(BootstrapError):
    """The metadata service can't be used: refused, forbidden, timed out, redirected, too large, garbage."""

    exit_code = 3


class NotReady(MetadataError):
    """The metadata service can't be used yet: worth another try within the deadline."""


class NotPermitted(BootstrapError):
    """The kernel wants more privileges than this process has."""

    exit_code = 4
