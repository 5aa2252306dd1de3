"""Time and cancellation: the only place that creates scopes, timers and tasks for requests.

``Block`` is code that can be ended, by a clock or from elsewhere. ``Background`` runs functions
beside a block of code. ``DeadlineWaiter`` is the clock of one connection's successive waits. All
have anyio's semantics on every event loop: a shield protects what is inside from every
cancellation, and code is cancelled again until it ends.
"""
