"""Explore: random plans against a target, and a judge who reads afterwards what happened.

A plan is data (`plan`), clients perform it with real concurrency (`actor`, `perform`), everything that passes
is written into a history (`history`), and the history is judged (`judge`), once, at the end. A plan that
broke something is made smaller (`shrink`) and told in words (`diagram`). Nothing is asserted meanwhile.
"""
