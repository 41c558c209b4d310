"""Planning problems as files: explicit numbers in, a certified plan out."""
