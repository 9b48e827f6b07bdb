"""Teaching safety classifiers on Gemma's activations; the only room that imports scikit-learn."""
