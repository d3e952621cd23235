"""Videos in questions: which frames stand for a video, and all pictures of a question in order.

A model is shown pictures.  A `Video` stands for some of its frames, spread over time; `pictures` gives
those and the plain pictures of a question in the order in which a model is to see them.
"""

from __future__ import annotations

from ._video import MAX_FRAMES, Frame, Picture, Video, is_video, pictures, pictures_of

__all__ = ["MAX_FRAMES", "Frame", "Picture", "Video", "is_video", "pictures", "pictures_of"]
