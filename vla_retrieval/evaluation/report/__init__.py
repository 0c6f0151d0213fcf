"""Reports about an evaluation: JSON, CSV, one HTML file, tables on the terminal.

``json_file`` and ``csv_files`` need nothing but Python, ``terminal`` needs rich. Pages
(``page``, ``comparison_page``, ``writing``) need ``requirements/evaluation.txt``, which they import
when a page is made.
"""
