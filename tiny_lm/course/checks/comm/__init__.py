"""The checks of lab 05_comm: collectives, experts apart, overlap, pipelines.

Chapter: 05_comm/emulated_gpus
Source: course
"""
