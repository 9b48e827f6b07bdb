"""The model debugger's room, reserved for it; the only one that may import streamlit."""
