"""The scenario of `holdfast demo --clusters N --check`: what crosses between clusters, and what must not."""
