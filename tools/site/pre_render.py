#!/usr/bin/env python3
"""Says what to type instead: Quarto calls this before it renders a project whose configuration is the repository's own,
and `make setup` puts it in the place of nbdev's commands for sites, which would fetch Quarto with sudo and then render unprocessed notebooks."""
raise SystemExit("nothing was rendered: type `make docs` (or `make site` to read the pages, `make readme` for README.md); Quarto is used where it is installed")
