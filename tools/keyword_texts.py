"""What the synthetic speakers say: ten keywords, words that are none of them, and sentences without any of them.

Words that sound the same as a keyword in some accent (know, write, of, owned ...) are left out on purpose: nobody could
tell them apart. The words of `UNSEEN` are said in the measurement only.
"""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

NEAR = (  # noqa: SIM905 - read as prose
    "yep yet year yell yesterday yellow guess less mess chess dress guest yours not now knot nor note "
    "nose known nine none new near nope low so row toe though show snow cup cap cop apple pup upper under "
    "us other uncle oven town gown brown crown dawn done don dime time dine doubt out about house loud "
    "drown lift laugh lend let less leg lap last loft lead leaf elephant light rice rise ripe like line "
    "night bright fright rate root rat in an own ant and arm John gone want wand orange often awful often "
    "offer office cough soft coffee scoff staff top step stuff stock shop spot start store stone stamp "
    "drop got goat gold girl gone ghost good grow gate give get glow"
).split()
OTHER = (  # noqa: SIM905 - read as prose
    "zero one two three four five six seven eight nine ten eleven twelve twenty hundred bed bird cat dog "
    "happy marvin sheila tree wow backward forward follow learn visual water window table chair kitchen "
    "bathroom garden music radio picture camera sensor motor pump valve engine machine pressure "
    "temperature hello goodbye morning evening please thanks sorry maybe sure okay fine great nice big "
    "small tall short long fast slow hot cold warm cool red green blue black white mother father sister "
    "brother baby child people woman man friend teacher doctor driver farmer money paper pencil book "
    "letter number question answer problem reason system country city village street bridge river "
    "mountain ocean island summer winter spring autumn monday tuesday friday sunday january april august "
    "banana potato tomato bread butter cheese chicken sugar pepper salt tea juice beer bottle glass knife "
    "fork spoon plate computer keyboard telephone message battery button switch lamp candle mirror carpet "
    "ceiling door wall floor roof key lock hammer screw nail wood metal plastic cotton leather silver "
    "iron run walk jump sit stand eat drink sleep read speak listen watch open close push pull turn move "
    "carry bring take make build break cut cook wash clean paint play work help call wait think feel love "
    "hate want need find lose buy sell pay begin finish never always sometimes often again before after "
    "inside outside a the he she it we they you me him her this that here there what who when where why "
    "how is are was be have has do does did will would can could may might must with from into over "
    "through between against because although while quickly slowly carefully suddenly perhaps however "
    "therefore together another everything something anybody ah oh um hmm"
).split()
UNSEEN = (  # noqa: SIM905 - read as prose
    "lamb robot yawn gecko stab donkey rifle nephew lettuce rhyme honest oxen stork golfer yeast noodle "
    "umbrella dolphin lemon rocket olive stomach goose violin parrot whistle blanket pumpkin hospital "
    "engineer calendar"
).split()

SENTENCES = (
    "the quick brown fox jumps over the lazy dog while the farmer looks for his hat",
    "please bring me a cup of tea with milk and two spoons of sugar",
    "we will meet again tomorrow at half past nine in front of the station",
    "my brother works as an engineer in a small factory near the river",
    "the weather is going to be cold and windy during the whole week",
    "she opened the window because the room was warm and full of smoke",
    "how many people live in this village and what are they doing there",
    "the children are playing football behind the old church every evening",
    "I would like to buy three kilos of potatoes and a bottle of olive oil",
    "he never reads the newspaper but he always listens to the radio",
    "the committee has decided to publish the results at the end of the year",
    "a large number of birds fly south when the first snow begins to fall",
    "could you tell me where the nearest pharmacy is and when it opens",
    "the price of coffee increased by twelve percent during the last three months",
    "our neighbours painted their house blue and planted apple trees in the garden",
    "this machine measures temperature pressure and vibration several times a minute",
    "the president thanked all the volunteers for their hard and patient work",
    "in the middle of the night the telephone suddenly began to ring",
    "many scientists believe that these animals can remember faces for years",
    "take the second street after the bridge and walk until you see a tall tower",
    "they laughed about the story although everybody had heard it before",
    "the train to the city leaves from platform seven in about ten minutes",
    "her grandmother used to tell us long stories about ships and islands",
    "we need a new battery for the camera and some paper for the printer",
    "music was playing quietly in the kitchen while he was washing the plates",
    "the doctor asked him to drink more water and to sleep for eight hours",
    "there are twenty seven students in this class and most of them like science",
    "an old man with a grey beard was sitting under the lamp reading a letter",
    "if you change your mind please call me before the end of the month",
    "the company sells bicycles tents and other equipment for travelling",
    "cats usually sleep for most of the day and hunt during the evening",
    "the museum shows pictures of farmers sailors and soldiers from that time",
    "he has been learning to play the violin since he was eleven years old",
    "what a beautiful morning said the driver and switched the engine into gear",
    "the judge listened carefully to every witness and asked a few questions",
    "we should clean the bathroom and the stairs before our guests arrive",
    "several windows were broken by the storm that came from the sea",
    "she speaks four languages and would love to learn another two",
    "the recipe says that you have to cook the beans for at least an hour",
    "it was raining heavily so they decided to stay inside and watch a film",
)
