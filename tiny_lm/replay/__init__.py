"""Emulated time: what a step does, recorded once and played on any hardware.

Chapter: 05_comm/emulated_time
Source: course

A tape holds work and bytes; a machine adds the seconds. No process runs here.
"""
