"""A choice of one of a few that always stands: asked for by a link, kept from before, or the first.

Streamlit warns where a widget has both a default and a value in the session, so the default
goes into the session as well.
"""

from collections.abc import Collection, Sequence
from typing import Literal, TypeVar

import streamlit as st

Option = TypeVar("Option", bound="str | int")


def choose_one(
    label: str,
    options: Sequence[Option],
    *,
    key: str,
    asked: object = None,
    show_label: bool = True,
) -> Option:
    """Draw the options as one bar and return the chosen one."""
    prefer(options, key=key, asked=asked)
    shown: Literal["visible", "collapsed"] = "visible" if show_label else "collapsed"
    chosen: Option = st.segmented_control(
        label, options, required=True, key=key, label_visibility=shown
    )
    return chosen


def prefer(options: Collection[Option], *, key: str, asked: object = None) -> None:
    """Set a widget to what a link asks for; to the first option where it has no fit value."""
    if asked in options:
        st.session_state[key] = asked
    if st.session_state.get(key) not in options:
        st.session_state[key] = next(iter(options))
