// A network of MobileNet's parts: built once (plan.cpp), then run without an allocation (run.cpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace mobilenetv2 {

// Weights as they come: a kernel (out, in, k, k) and a bias (out), row by row.
struct Weights {
    const float* kernel;
    const float* bias;
    int out_channels, in_channels;
    Clamp clamp;
};

// A 3x3 depthwise convolution (channels, 1, 3, 3), and the pixels of zeros above and to the left of its map.
struct Filter {
    const float* kernel;
    const float* bias;
    int channels;
    Clamp clamp;
    int stride, dilation;
    int pad_top, pad_left;
    int out_height, out_width;
};

// The first convolution, 3x3 at stride 2 from planes of three colours.
struct Stem {
    Weights weights;
    int pad_top, pad_left;
    int out_height, out_width;
};

using ValueId = int;

class Network {
  public:
    // Of pictures (3, height, width), by kernels that this processor runs.
    Network(int height, int width, int threads, const Kernels& kernels = *all_kernels().front());

    // Each adds a layer and returns its result. What does not fit is refused by std::invalid_argument.
    ValueId stem(const Stem&);
    // [1x1 or the stem] -> 3x3 depthwise -> 1x1 [+ the block's input]: the expanded map is never whole in memory.
    // in is not read where the stem is given.
    ValueId block(ValueId in, const std::optional<Weights>& expand, const std::optional<Stem>& stem, const Filter&,
                  const Weights& project, bool shortcut);
    // bias: a (channels, 1, 1) map instead of the weights' own, or -1.
    ValueId pointwise(ValueId in, const Weights&, ValueId bias);
    // A map enlarged to the size of another one, bilinear with the corners on the corners, and added to it.
    ValueId enlarge_on(ValueId in, ValueId on, Clamp);
    // A 1x1 convolution of which only the mean over all pixels is kept, and a dense layer on that; (out, 1, 1).
    ValueId pooled(ValueId in, const Weights&, const Weights& dense);
    // The mean over all pixels; (channels, 1, 1).
    ValueId mean(ValueId in);

    // What `run` writes of a value: pixel by pixel (height, width, channels), or plane by plane.
    enum class Order { PIXELS, PLANES };
    void output(ValueId, Order);

    // Plans the memory; nothing can be added after it.
    void finish();

    // pictures: `count` of (3, height, width). outputs: of each output one array for all pictures, one after the other.
    // Safe from many threads; one run at a time.
    void run(const float* pictures, int count, float* const* outputs);

    std::size_t arena_bytes() const { return arena_floats_ * sizeof(float); }
    bool is_finished() const { return finished_; }
    int height() const { return height_; }
    int width() const { return width_; }
    std::size_t outputs() const { return outputs_.size(); }
    // Of one picture.
    std::size_t output_size(std::size_t index) const;

  private:
    struct Map {
        int channels = 0, blocks = 0, height = 0, width = 0;
        bool by_rows = false;  // rows of channel blocks of pixels; otherwise channel blocks of whole images
        std::size_t offset = 0;
        std::size_t size() const { return static_cast<std::size_t>(blocks) * height * width * LANES; }
        std::ptrdiff_t row() const { return static_cast<std::ptrdiff_t>(by_rows ? blocks : 1) * width * LANES; }
        std::ptrdiff_t block() const { return static_cast<std::ptrdiff_t>(by_rows ? 1 : height) * width * LANES; }
    };
    struct Packed {
        std::vector<float> values, bias;
        int in_blocks = 0, out_blocks = 0;
        Clamp clamp{};
        Panels view() const { return {values.data(), bias.data(), in_blocks, out_blocks, clamp}; }
    };
    struct Geometry {
        int stride, dilation, pad_top, pad_left, out_height, out_width, in_height, in_width;
        int padded_width() const;
    };
    // One block, or the stem alone. Offsets of its working memory are floats behind that of the thread.
    struct Stage {
        enum class First { NONE, EXPAND, STEM } makes = First::NONE;  // what makes the map that is filtered
        bool shortcut = false;
        Packed first, project;
        std::vector<float> filter;  // for each channel block 9 weights and the bias
        int blocks = 0;             // that are filtered
        Clamp filter_clamp{};
        Geometry geometry{}, stem_geometry{};
        int band_rows = 1;  // by rows: rows of the result that are made together
        std::size_t ring = 0, zeros = 0, filtered = 0, read = 0;
        int ring_rows() const { return (band_rows - 1) * geometry.stride + 2 * geometry.dilation + 1; }
        std::ptrdiff_t padded() const { return static_cast<std::ptrdiff_t>(geometry.padded_width()) * LANES; }
        // Of the rows of pictures that one row of the stem's result is made of.
        std::ptrdiff_t stem_floats() const;
    };
    enum class Kind { STEM, BLOCKS_BY_ROWS, BLOCK_BY_IMAGE, POINTWISE, POOLED, MEAN, ENLARGE };
    struct Step {
        Kind kind;
        ValueId in = -1, out = -1;
        ValueId other = -1;           // the bias of POINTWISE, what ENLARGE adds to
        const Packed* then = nullptr;  // the weights that are read after this step
        std::vector<Stage> stages{};  // of blocks by rows several, each on the rows of the one before it
        Packed weights{}, dense{};    // of POINTWISE and POOLED; dense: panel by panel of the weights' results
        int groups = 0;               // of POOLED: panels are divided into so many, each with sums of its own
        Clamp clamp{};                // of ENLARGE
        std::vector<int> left{}, right{};  // of ENLARGE: the pixels that each lies between
        std::vector<float> across{};
        std::vector<int> padded_pixels{};  // by image: where each pixel lies in the padded scratch
        std::size_t shared_scratch = 0, thread_scratch = 0, scratch_offset = 0;
    };
    // Rows of a map, or some of them in working memory: row y is at `at + (y - first) * row`.
    struct Rows {
        float* at;
        std::ptrdiff_t row, block;
        int first;
        float* of(int y) const { return at + (y - first) * row; }
    };
    struct Worker;

    const Map& map(ValueId) const;
    void check_stem(const Stem&) const;
    Stage stage_of(const Map& in, const std::optional<Weights>& expand, const std::optional<Stem>&, const Filter&,
                   const Weights& project, bool shortcut) const;
    ValueId add(Step&&, int channels, int height, int width);
    void join_blocks();
    void plan_scratch();
    void plan_arena();

    void work(int thread, const float* picture);
    void run_stem(const Step&, Worker&);
    void run_by_rows(const Step&, Worker&);
    void make_rows(const Step&, int stage, Worker&, int first_row, int last_row, Rows to) const;
    void read_stem_rows(const Stage&, const float* picture, int row, float* to) const;
    void run_stem_row(const Stage&, int panel, const float* read, Run out) const;
    void run_by_image(const Step&, Worker&);
    void run_pointwise(const Step&, Worker&);
    void run_enlarge(const Step&, Worker&);
    void run_mean(const Step&, Worker&);
    void run_pooled(const Step&, Worker&);
    Ahead ahead(const Packed&, int panel) const;
    Ahead after(const Packed&, int panel, const Packed* then) const;
    int parts_of(int panels, std::ptrdiff_t pixels) const;
    float* at(const Map& map) const { return arena_ + map.offset; }
    Rows rows(const Map& map) const { return {at(map), map.row(), map.block(), 0}; }
    void write(const Map&, Order, float* to) const;

    const int height_, width_;
    const Kernels& kernels_;
    std::vector<Map> maps_;
    std::vector<Step> steps_;
    std::vector<std::pair<ValueId, Order>> outputs_;
    // Of each step: how many rows or panels threads have taken, of each pair of threads or in each of two phases.
    std::unique_ptr<std::atomic<int>[]> claims_;
    const std::size_t claims_per_step_;
    // Of each thread and stage: the rows that its ring holds.
    std::vector<std::vector<std::vector<int>>> held_;
    std::unique_ptr<float[]> memory_;
    float* arena_ = nullptr;
    std::size_t arena_floats_ = 0;
    bool finished_ = false;
    std::mutex running_;
    Team team_;
    Barrier barrier_;
};

}  // namespace mobilenetv2
