"""Problems with known answers, and the benchmark, gallery and demo built on them.

`retrodict` itself needs nothing of this, and imports it only where a user asks for it.
"""
