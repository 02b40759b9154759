"""How an action gets into a sampling run: the patch, and what says when, where and how strongly."""
