"""Stub until the loop lands."""
