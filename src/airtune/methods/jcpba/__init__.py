"""jcpba: client pruning and bandwidth, in the manner of Pang et al., arXiv 2602.01024."""
