"""Boxes, points and masks that follow their images through a group action, and back.

Two coordinate conventions, both x right and y down, both turning about the centre of the image:

* points name pixels: (0, 0) is the centre of the first pixel, so the centre of the image is ((W−1)/2, (H−1)/2);
* boxes name edges, as COCO and torchvision have them: (x1, y1, x2, y2) with 0 ≤ x ≤ W, so the centre is (W/2, H/2),
  and the box of the pixels i … k is (i, k + 1).

So wherever the action permutes pixels, the box of a moved mask is the moved box of the mask, exactly. No argument is
changed in place, and no coordinate is clipped: at 45° a corner may leave the image. ``inverse=True`` acts with g⁻¹, as
`equifast.act` does: that is how targets follow an image into its canonical form.

Targets come as one tensor for the batch or as a list with one tensor for each image. The entries of a list are checked
and moved one by one, so each keeps its own dtype, however many targets it holds. The classes of
``torchvision.tv_tensors`` come back as the same class with the same metadata.
"""

from ._entries import Targets
from .boxes import act_boxes
from .masks import act_masks
from .points import act_points

__all__ = ["Targets", "act_boxes", "act_masks", "act_points"]
