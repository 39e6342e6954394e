"Quarto calls this before it renders a project whose configuration is the repository's own; the site is built from processed notebooks."
raise SystemExit("nothing was rendered: type `make docs` (or `make site` to read the pages); it calls Quarto where it is installed")
