"""Source code as a tree, for tests that look at how the project is written."""

import ast
import gc


def parsed(text: str) -> ast.Module:
    """The tree of a module.

    Garbage is not collected meanwhile: what a collection logs may have its own source looked at, and Python
    3.11's parser cannot be entered twice ("AST constructor recursion depth mismatch", CPython issue 106905).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        if enabled:
            gc.enable()
