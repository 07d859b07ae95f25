"""Problems with known answers, and what is shown with them: benchmark, gallery, demo.

`retrodict` itself needs nothing of this, and imports it only where a user asks for it.
"""
