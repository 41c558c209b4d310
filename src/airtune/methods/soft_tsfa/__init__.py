"""soft_tsfa: sparse orthogonal factors, in the manner of Kim & Choi, arXiv 2505.00333."""
