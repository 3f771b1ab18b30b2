"""What can be solved: quadratics, maps of the line, small networks. NumPy and SciPy alone."""
