"""The book's pictures: `style` holds the one visual language, then a file a part.

Chapter: index
Source: course
"""
