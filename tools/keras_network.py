"""A small network of Keras' layers, saved both ways: what tools/make_fixtures.py compares ours with."""

import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

from published_networks import numbers

EXTENTS = (8, 12, 16)


def network():
    image = layers.Input((*EXTENTS, 1))
    fine = layers.Conv3D(3, 3, padding="same", activation="relu")(image)
    x = layers.BatchNormalization()(layers.MaxPooling3D()(fine))
    down = layers.Conv3D(4, 3, strides=2, padding="same", use_bias=False)(x)
    down = layers.Activation("relu")(down)
    up = layers.Conv3DTranspose(3, 3, strides=2, padding="same", activation="relu")(down)
    x = layers.LeakyReLU()(layers.Add()([x, up]))
    x = layers.UpSampling3D()(layers.AveragePooling3D(2)(x))
    x = layers.Conv3DTranspose(3, 2, strides=2)(layers.Dropout(0.1)(x))
    x = layers.Concatenate()([x, fine])
    x = layers.Conv3D(1, (1, 1, 2), padding="same", activation="sigmoid")(x)
    return keras.Model(image, x)


def weights(net):
    """Numbers of a formula for each weight in the order of the layers; variances are positive."""
    for ix, variable in enumerate(net.weights):
        values = numbers(str(ix), int(np.prod(variable.shape))).reshape(variable.shape)
        yield 1 + values / 8 if variable.name == "moving_variance" else values / 2


def save(folder):
    """Writes every.h5 and every.keras; returns the logit of their answer to the input that the formula gives."""
    keras.utils.clear_session()
    net = network()
    net.set_weights(list(weights(net)))
    net.save(folder / "every.h5")
    net.save(folder / "stored.keras")
    # Keras packs nothing.
    with (
        zipfile.ZipFile(folder / "stored.keras") as stored,
        zipfile.ZipFile(folder / "every.keras", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(zipfile.ZipInfo(name), stored.read(name), zipfile.ZIP_DEFLATED)
    (folder / "stored.keras").unlink()
    keras.config.set_floatx("float64")
    exact = network()
    exact.set_weights([w.astype(np.float64) for w in net.get_weights()])
    x = numbers("input", int(np.prod(EXTENTS))).reshape(1, *EXTENTS, 1)
    y = np.asarray(exact.predict(x.astype(np.float64), verbose=0))[0, ..., 0]
    keras.config.set_floatx("float32")
    return np.log(y / (1 - y)).astype(np.float32)
