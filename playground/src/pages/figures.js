/**
 * The live figures of the chapters: <div class="live-figure" data-figure="NAME"> in a cell of text,
 * with what is to be read without scripts in it. Other attributes data-KEY set where it starts, with
 * data-plays it plays once by itself, and data-still names a figure at rest that shows the same.
 */
import { adamFigure } from "../live/adam.js";
import { armsFigure } from "../live/arms.js";
import { centralFlowFigure } from "../live/central.js";
import { portraitFigure } from "../live/coupled.js";
import { lateFigure } from "../live/late.js";
import { bifurcationFigure } from "../live/maps.js";
import { methodsFigure } from "../live/methods.js";
import { networkFigure } from "../live/network.js";
import { noiseFigure } from "../live/noise.js";
import { pairFigure } from "../live/pair.js";
import { phaseFigure } from "../live/phase.js";
import { thresholdFigure } from "../live/quadratic.js";
import { reflectionFigure } from "../live/reflection.js";
import { polarityFigure, startFigure } from "../live/scalar.js";
import { sphereFigure } from "../live/sphere.js";
import { turnFigure } from "../live/turn.js";
import { widthFigure } from "../live/wide.js";
import { mountFigures } from "../ui/page.js";

mountFigures({
  "central-flow": centralFlowFigure,
  "threshold": thresholdFigure,
  "bifurcation": bifurcationFigure,
  "start": startFigure,
  "polarity": polarityFigure,
  "phase": phaseFigure,
  "reflection": reflectionFigure,
  "portrait": portraitFigure,
  "adam": adamFigure,
  "arms": armsFigure,
  "network": networkFigure,
  "methods": methodsFigure,
  "turn": turnFigure,
  "minima": pairFigure,
  "sphere": sphereFigure,
  "width": widthFigure,
  "noise": noiseFigure,
  "late": lateFigure,
});
