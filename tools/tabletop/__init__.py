"""Rendered table-top scenes, instructions about them, and the demonstration model trained on both.

The layers, each importing only those before it:

``vocabulary`` <- ``meshes`` | ``scene`` <- ``language`` | ``render`` <- ``truth`` | ``phrases`` <-
``dataset`` <- ``model`` <- ``train`` | ``measure`` | ``bag``
"""
