"""The report of a run, and the overlay of several: one HTML file each, with its figures inside, no network.

``page`` writes the report of a run with the ``figures`` of that run; ``overlay`` draws several runs over each
other, and ``comparison`` puts them into a table of text. ``drawing`` holds what all figures share, ``text`` how
amounts are written, ``templates`` the frame of the pages.

Figures are drawn by matplotlib as SVG and put into the page. The same run directory gives the same report: no
dates, no random identifiers. matplotlib takes half a second to import: ``text`` and ``comparison`` do without it,
and whoever imports the others does so where a figure is wanted.
"""
