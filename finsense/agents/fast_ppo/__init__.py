"""Masked PPO in compiled kernels, drop-in for sb3-contrib's: `algorithm` has the class, `loss` what is minimised."""
