"""Label sets that public models share, in the order of their classes.

Sources: the class lists of COCO (arXiv:1405.0312; 80 of its 91 numbers are used), of Pascal VOC 2012, the 17 points of
COCO's keypoints, the 33 of BlazePose, CIFAR-10's page.
"""

COCO = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,
scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)

_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers of COCO that no class has."""


def _numbered() -> tuple[str, ...]:
    """COCO's labels at their original numbers, 1 to 90, as TensorFlow's detectors count them from 0."""
    left = iter(COCO)
    return tuple("unused" if number in _UNUSED else next(left) for number in range(1, 91))


COCO_90 = _numbered()

VOC = tuple(
    """background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,
pottedplant,sheep,sofa,train,tvmonitor""".replace("\n", "").split(",")
)

BODY = tuple(
    """nose,left eye,right eye,left ear,right ear,left shoulder,right shoulder,left elbow,right elbow,left wrist,
right wrist,left hip,right hip,left knee,right knee,left ankle,right ankle""".replace("\n", "").split(",")
)

BODY_33 = tuple(
    """nose,left eye inner,left eye,left eye outer,right eye inner,right eye,right eye outer,left ear,right ear,
mouth left,mouth right,left shoulder,right shoulder,left elbow,right elbow,left wrist,right wrist,left pinky,
right pinky,left index,right index,left thumb,right thumb,left hip,right hip,left knee,right knee,left ankle,
right ankle,left heel,right heel,left foot index,right foot index""".replace("\n", "").split(",")
)

DIGITS = tuple("0123456789")

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

KEYWORDS_12 = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
"""MLPerf Tiny's keyword model."""
