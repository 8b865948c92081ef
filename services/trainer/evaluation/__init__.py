"""Ways of learning tried on an archive, without servers: the same learner, judged before it learns."""
