"""Miniatures of data sets in their official layouts, with their oddities; `clips` are videos by ending."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat

from tests.data.clip_files import numbered_frames

UCF101 = """ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch
Basketball BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles
BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag BreastStroke BrushingTeeth
CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen Diving Drumming Fencing
FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering
HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding
HulaHoop IceDancing JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking Knitting LongJump
Lunges MilitaryParade Mixing MoppingFloor Nunchucks ParallelBars PizzaTossing PlayingCello
PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano PlayingSitar PlayingTabla
PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting RockClimbingIndoor
RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving
SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi
TennisSwing ThrowDiscus TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog
WallPushups WritingOnBoard YoYo""".split()
HMDB51 = """brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat
fall_floor fencing flic_flac golf handstand hit hug jump kick kick_ball kiss laugh pick pour
pullup punch push pushup ride_bike ride_horse run shake_hands shoot_ball shoot_bow shoot_gun sit
situp smile smoke somersault stand swing_baseball sword sword_exercise talk throw turn walk wave""".split()
JHMDB = """brush_hair catch clap climb_stairs golf jump kick_ball pick pour pullup push run shoot_ball
shoot_bow shoot_gun sit stand swing_baseball throw walk wave""".split()


def text(path, *lines, end="\n", encoding="utf-8"):
    """Writes a text file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(end.join([*lines, ""]).encode(encoding))


def put(clip, *paths):
    """Copies a clip to some places."""
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)


def images(folder, template, count):
    """Writes the frames of a clip as images."""
    Path(folder).mkdir(parents=True)
    for i, frame in enumerate(numbered_frames(count), 1):
        assert cv2.imwrite(f"{folder}/{template.format(i)}", frame)


def ucf101(clips, raw):
    """Of class 1 and 37, whose folder and files differ in their letters; classInd with a BOM and CRLF."""
    lists = raw / "ucfTrainTestlist"
    text(lists / "classInd.txt", *(f"{i} {name}" for i, name in enumerate(UCF101, 1)), end="\r\n",
         encoding="utf-8-sig")
    for i in (1, 2, 3):
        text(lists / f"trainlist0{i}.txt", f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{i}_c01.avi 1",
             f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{i}_c01.avi 1",
             "HandstandPushups/v_HandStandPushups_g01_c01.avi 37",
             "", end="\r\n")
        text(lists / f"testlist0{i}.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g04_c01.avi",
             "YoYo/v_YoYo_g01_c01.avi")
    put(clips["avi"], *(raw / f"UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g0{i}_c01.avi" for i in (1, 2, 3, 4)),
        raw / "UCF-101/HandstandPushups/v_HandstandPushups_g01_c01.avi")


def hmdb51(clips, raw):
    """Names with signs and brackets, blanks at the ends of lines, clips that belong to no part of a split."""
    odd = "#437_How_To_Ride_A_Bike_(nm)_np1_[le]_med_0;1!&.avi"
    for k, name in enumerate(HMDB51):
        for i in (1, 2, 3):
            names = [odd, "b_u_cm_np1_fr_med_0.avi", "c.avi"] if k in (0, 50) else ["gone.avi"]
            text(raw / f"testTrainMulti_7030_splits/{name}_test_split{i}.txt",
                 *(f"{video} {mark} " for video, mark in zip(names, (1, 2, 0))))
        if k in (0, 50):
            put(clips["avi"], raw / f"hmdb51_org/{name}/{odd}",
                raw / f"hmdb51_org/{name}/b_u_cm_np1_fr_med_0.avi")
    return odd


def k400_csv(path, rows, header="label,youtube_id,time_start,time_end,split", **options):
    text(path, header, *rows, **options)


def kinetics(clips, raw):
    """400 classes by their csv; flat videos, one in a folder of its class, one replaced, some gone."""
    names = [f"action {k:03d}" for k in range(398)] + ["hurling (sport)", "massaging person's head"]
    ids = [f"id-_{k:07d}" for k in range(400)]
    k400_csv(raw / "annotations/train.csv",
             [*(f'"{name}",{ident},{k},{k + 10},train' for k, (name, ident) in enumerate(zip(names, ids))),
              f"{names[0]},{ids[0]},0,10,train"], end="\r\n", encoding="utf-8-sig")
    k400_csv(raw / "annotations/val.csv", [f"{names[k]},val__{k:06d},5,15,val" for k in range(3)] + [
        ",test_000000,1,2,test"])
    k400_csv(raw / "annotations/test.csv", ["test_000001,1,2,test"],
             header="youtube_id,time_start,time_end,split")
    put(clips["mp4"], raw / "train/id-_0000000_000000_000010.mp4", raw / "val/val__000001_000005_000015.mp4",
        raw / "replacement/replacement_for_corrupted_k400/id-_0000001_000001_000011.mp4",
        raw / f"train/{names[399]}/id-_0000399_000399_000409.mp4",
        raw / "train/id-_0000000_000020_000030.mp4",
        raw / "val/val__000000.mp4")
    text(raw / "train/id-_0000001_000001_000011.mp4", "corrupted")
    text(raw / "train/id-_0000002_000002_000012.mp4", "broken, and there is no replacement")
    return names


def mini_kinetics(clips, raw, copy=None):
    """Split files as AR-Net has them, folders of images before the names, over CVDF's flat videos.

    Args:
        clips, raw: as everywhere.
        copy: where the videos lie, if not in `raw`.
    """
    copy, names = copy or raw, [f"action {k:03d}" for k in range(200)]
    text(raw / "mini_train_videofolder.txt",
         *(f"images/train/{name}/id-_{k:07d}_000000_000010 {250 + k} {k}" for k, name in enumerate(names)))
    text(raw / "mini_val_videofolder.txt", "images/val/action 007/val__000001_000005_000015 300 7",
         "images/val/action_199/gone_000000_000005_000015 300 199", end="\r\n")
    put(clips["mp4"], copy / "train/id-_0000199_000000_000010.mp4",
        copy / "val/val__000001_000005_000015.mp4")
    return names


def activitynet(clips, raw):
    """The json with several labels, testing videos without any, a video that is gone, mkv and webm."""
    def video(subset, *labels):
        return {"duration": 10.0, "subset": subset, "resolution": "64x48", "url": "https://example.invalid/",
                "annotations": [{"segment": [0.1 * k, 1.0], "label": label} for k,
                                label in enumerate(labels)]}

    names = [f"Doing thing {k:03d}" for k in range(200)]
    database = {"aaaaaaaaaa-": video("training", names[3], names[1], names[3]),
                "_bbbbbbbbbb": video("training", names[0]), "cccccccccc_": video("validation", names[2]),
                "gone_video_": video("validation", names[5]), "testing____": video("testing"),
                **{f"more_{k:06d}": video("training", name) for k, name in enumerate(names)}}
    text(raw / "activity_net.v1-3.min.json", json.dumps({"version": "VERSION 1.3", "taxonomy": [],
                                                         "database": database}))
    put(clips["mp4"], raw / "videos/v_aaaaaaaaaa-.mp4")
    put(clips["mkv"], raw / "videos/v__bbbbbbbbbb.mkv")
    put(clips["webm"], raw / "more/cccccccccc_.webm")
    return names


def something_v2(clips, raw):
    names = ["Holding something next to something", *(f"Doing {k} with something" for k in range(173))]
    prefix = "labels/something-something-v2-"
    text(raw / f"{prefix}labels.json",
         json.dumps({name: str(k) for k, name in reversed([*enumerate(names)])}))
    entries = [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
                "template": "Holding [something] next to [something]",
                "placeholders": ["potato", "vicks vaporub bottle"]},
               {"id": "5", "label": "x", "template": "Doing 172 with [something]", "placeholders": ["x"]}]
    text(raw / f"{prefix}train.json", json.dumps(entries), encoding="utf-8-sig")
    text(raw / f"{prefix}validation.json", json.dumps([{**entries[1], "id": "6"}, {"id": "404"}]))
    put(clips["webm"], *(raw / f"20bn-something-something-v2/{k}.webm" for k in (78687, 5, 6)))
    return names


def fcvid(clips, raw):
    """A matrix of labels beside the names, blanks in a name, tabs and blanks, a video in another folder."""
    text(raw / "materials/FCVID_VideoName_TrainTestSplit.txt", "cats/a b.mp4\ttrain", "dogs/c.mp4 test",
         "dogs/gone.mp4 train", "cats/d.mp4 train", "cats/unlabelled.mp4 test")
    rows = np.zeros((5, 239), int)
    rows[0, [0, 238]] = rows[1, 4] = rows[2, 5] = rows[3, 6] = 1
    text(raw / "materials/FCVID_Label.txt", *(" ".join(map(str, row)) for row in rows), end="\r\n")
    put(clips["mp4"], raw / "videos/cats/a b.mp4", raw / "videos/dogs/c.mp4")
    put(clips["mkv"], raw / "videos/elsewhere/d.mkv")
    return rows


def something_v1(clips, raw):
    """Folders of jpg, a line without a class, a folder without frames, a comma in the name of a class."""
    names = ["Putting something, something and something on the table", "Closing something",
             *(f"Doing {k} with something" for k in range(172))]
    text(raw / "something-something-v1-labels.csv", *names)
    text(raw / "something-something-v1-train.csv", f"100218;{names[0]}", f"48032;{names[173]}", end="\r\n")
    text(raw / "something-something-v1-validation.csv", f"7;{names[1]}", f"8;{names[1]}", "9;", end="\r\n")
    text(raw / "something-something-v1-test.csv", "10")
    for name, count in (("100218", 6), ("48032", 5), ("7", 4)):
        images(raw / f"20bn-something-something-v1/{name}", "{:05}.jpg", count)
    (raw / "20bn-something-something-v1/8").mkdir()
    return names


def moments_in_time(clips, raw):
    """Classes in no order, a plus in the name of one, a video that is gone."""
    names = ["clapping", "adult+female+speaking", *(f"verb{k:03d}ing" for k in reversed(range(337)))]
    text(raw / "moments_categories.txt", *(f"{name},{k}" for k, name in enumerate(names)))
    text(raw / "trainingSet.csv", "clapping/yt-5of6ffo6-Bw_205.mp4,clapping,3,0",
         "adult+female+speaking/flickr-1-2.mp4,adult+female+speaking,4,1", "clapping/gone.mp4,clapping,3,1")
    text(raw / "validationSet.csv", "verb000ing/getty-karate_4.mp4,verb000ing,3,1")
    put(clips["mp4"], raw / "training/clapping/yt-5of6ffo6-Bw_205.mp4",
        raw / "training/adult+female+speaking/flickr-1-2.mp4",
        raw / "validation/verb000ing/getty-karate_4.mp4")
    return names


def ade20k(clips, raw):
    """Images and masks of the 150 classes; one mask is broken."""
    from tests.made_scenes import sceneparse

    root = sceneparse(raw, train=3, val=2)
    (root / "annotations/training/ADE_train_00000002.png").write_bytes(b"broken")


def jhmdb(clips, raw):
    """The 21 classes, two videos each; of the last one the mask is gone, names have brackets and signs."""
    for name in JHMDB:
        videos = ["#20_[x]_(a)_1!", "b_2"]
        for i in (1, 2, 3):
            text(raw / f"splits/{name}_test_split{i}.txt", *(
                f"{video}.avi {1 + (k + i) % 2} " for k, video in enumerate(videos)))
        for video in videos:
            images(raw / f"Rename_Images/{name}/{video}", "{:05}.png", 2)
            (raw / f"puppet_mask/{name}/{video}").mkdir(parents=True)
            mask = np.zeros((48, 64, 2), np.uint8)
            mask[10:20, 30:40] = 1
            savemat(raw / f"puppet_mask/{name}/{video}/puppet_mask.mat", {"part_mask": mask})
    (raw / "puppet_mask/wave/b_2/puppet_mask.mat").unlink()


LAYOUTS = {"activitynet": activitynet, "ade20k": ade20k, "fcvid": fcvid, "hmdb51": hmdb51, "jhmdb": jhmdb,
           "kinetics400": kinetics, "mini_kinetics200": mini_kinetics, "moments_in_time": moments_in_time,
           "something_v1": something_v1, "something_v2": something_v2, "ucf101": ucf101}
