// Empty: kforge_cuda.h, which precedes every source, already declares everything.

#pragma once
