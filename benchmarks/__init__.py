"""What flatminima.curvature spends, beside other ways and the peer libraries: ``make bench``."""
