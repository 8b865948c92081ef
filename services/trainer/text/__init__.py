"""The text encoder: any sentence-transformers folder, tuned by what is clicked, exported for Triton."""
