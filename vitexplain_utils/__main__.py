"""The command line: `python -m vitexplain_utils PHOTO …` writes overlays."""

from __future__ import annotations

import sys

from .arguments import plain_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    2 is bad input, or an extra that is missing; 1 is that some of several pictures could not be
    read, and the others are written.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if "--help-methods" not in given:
        plain_parser().parse_known_args(given)  # --help ends here, before PyTorch is imported
    from .command_line import command

    return command(given)


if __name__ == "__main__":
    sys.exit(main())
