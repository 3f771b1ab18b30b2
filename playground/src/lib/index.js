/** All numerics of the playgrounds, without a page: lib.js, which the tests compare with Python. */
export * as scalar from "./scalar.js";
export * as central from "./central.js";
export * as instability from "./instability.js";
export * as maps from "./maps.js";
export * as quadratic from "./quadratic.js";
export * as random from "./random.js";
export * as eigen from "./eigen.js";
export * as episodes from "./episodes.js";
export * as mlp from "./mlp.js";
export * as training from "./training.js";
export * as adam from "./adam.js";
export * as coupled from "./coupled.js";
export * as interventions from "./interventions.js";
export * as phase from "./phase.js";
