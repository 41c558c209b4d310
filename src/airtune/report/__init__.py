"""Reports of a run and of a comparison: sentences, figures, pages."""
