"""The report of a run, and the overlay of several: one HTML file each, with its figures inside, no network.

Figures are drawn by matplotlib as SVG and put into the page. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; the same group has the same colour in every figure. The same run
directory gives the same report: no dates, no random identifiers.
"""
