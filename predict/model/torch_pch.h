// Precompiled: the libtorch headers that the sources of predict/model use.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
