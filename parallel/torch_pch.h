// Precompiled: the libtorch headers that the *_torch.cc sources use.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
