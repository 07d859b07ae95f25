"""Maps between the user's units and the numbers of order one that networks see, each with its log-determinant."""

from retrodict.transforms.affine import ConditionalAffine as ConditionalAffine
from retrodict.transforms.joint_affine import JointAffine as JointAffine
from retrodict.transforms.joint_affine import Residual as Residual
from retrodict.transforms.robust_scaling import RobustScaling as RobustScaling
from retrodict.transforms.scaling import Scaling as Scaling
