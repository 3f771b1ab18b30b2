"""Side-by-side timings of flatminima.curvature and the peer libraries: ``make bench``."""
