"""Small networks in compiled kernels on a CPU, for every learner: products, passes, Adam, and what torch they know."""
