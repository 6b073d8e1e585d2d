"""Colours that all pictures share."""

# Okabe and Ito's colours, told apart by people who do not see all of them; the marks differ in shape as well.
GREY, VERMILION, BLUE, GREEN = "#8c959f", "#d55e00", "#0072b2", "#009e73"
