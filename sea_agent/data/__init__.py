"""Prompts and preferences in files, in and out."""
