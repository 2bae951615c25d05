"""The same features in an orthonormal basis of the span of the training features: a few hundred inputs a head."""
