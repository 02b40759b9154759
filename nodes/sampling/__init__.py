"""Adds an action to a sampling run: the patch, and the control of when, where and how strongly."""
