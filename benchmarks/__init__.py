"""How fast each stage is beside the usual way of doing it: `make bench`, one module per stage.

A module holds the baseline, in the plain form that a competent user writes with the usual
library, and a function `rows` that runs both sides alternately and returns one `Row` for each
condition. Results must agree before a time counts.
"""
